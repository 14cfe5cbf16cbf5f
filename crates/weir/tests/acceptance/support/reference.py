"""Answers of other programs as a JSON array of rows, for the acceptance tests to compare with.

usage: reference.py duckdb|deltalake|polars, the question (SQL, or a table's folder) on standard input
"""

import datetime
import decimal
import json
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


programs = {"duckdb": duckdb, "deltalake": deltalake, "polars": polars}
answer = programs[sys.argv[1]](sys.stdin.read())
json.dump([{name: plain(value) for name, value in row.items()} for row in answer], sys.stdout)
