"""Answers of other programs as a JSON array of rows, for the acceptance tests to compare with.

usage: reference.py duckdb|deltalake|polars|net|runs, the question (SQL, or a table's folder) on standard input
"""

import datetime
import decimal
import json
import os
import sys


def plain(value):
    """A value as Weir prints it in JSON."""
    if isinstance(value, datetime.datetime):
        return value.isoformat()
    if isinstance(value, datetime.date):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return float(value)
    if isinstance(value, bytes):
        return value.hex()
    return value


def duckdb(sql):
    import duckdb as engine

    answer = engine.sql(sql)
    return [dict(zip(answer.columns, row)) for row in answer.fetchall()]


def deltalake(folder):
    import deltalake as engine

    return engine.DeltaTable(folder).to_pyarrow_table().to_pylist()


def polars(folder):
    import polars as engine

    return engine.read_delta(folder).to_dicts()


def net(folder):
    """What the changes of a table sum up to: its rows, without the bookkeeping, with their weights."""
    import deltalake as engine

    table = engine.DeltaTable(folder).to_pyarrow_table()
    columns = [name for name in table.column_names if not name.startswith("_")]
    sums = table.group_by(columns).aggregate([("_weight", "sum")])
    return [row for row in sums.to_pylist() if row["_weight_sum"] != 0]


def runs(folder):
    """The runs of consecutive numbers in `id` of what the changes of a table sum up to."""
    found = []
    for row in sorted(net(folder), key=lambda row: row["id"]):
        rows = row["_weight_sum"]
        if found and row["id"] == found[-1]["last"] + 1 and rows == 1:
            found[-1]["last"] += 1
            found[-1]["count"] += 1
        else:
            found.append({"first": row["id"], "last": row["id"], "count": rows})
    return found


programs = {"duckdb": duckdb, "deltalake": deltalake, "polars": polars, "net": net, "runs": runs}
answer = programs[sys.argv[1]](sys.stdin.read())
json.dump([{name: plain(value) for name, value in row.items()} for row in answer], sys.stdout)
sys.stdout.flush()
# Without the interpreter's end, in which threads of the engines have been seen to abort the process.
os._exit(0)
