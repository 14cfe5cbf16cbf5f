"""Answers queries with DuckDB: reads {"tables", "queries"} as JSON, writes each answer as Parquet, prints the errors.

With the argument `tpcds`: prints the queries of TPC-DS as DuckDB's extension has them.
"""

import glob
import json
import os
import sys

import duckdb

if sys.argv[1:] == ["tpcds"]:
    import duckdb_extension_tpcds

    folder = os.path.dirname(duckdb_extension_tpcds.__file__)
    (extension,) = glob.glob(f"{folder}/extensions/v{duckdb.__version__}/tpcds.duckdb_extension")
    connection = duckdb.connect()
    connection.execute(f"LOAD '{extension}'")
    queries = connection.execute("SELECT query_nr, query FROM tpcds_queries()").fetchall()
    print(json.dumps({f"q{number:02}": text for number, text in queries}))
    sys.exit()

question = json.load(sys.stdin)
connection = duckdb.connect()
connection.execute("SET TimeZone = 'UTC'")
# What DataFusion calls date_bin.
connection.execute("CREATE MACRO date_bin(width, instant, origin) AS time_bucket(width, instant, origin)")
for name, path in question["tables"].items():
    connection.execute(f"CREATE TABLE {name} AS SELECT * FROM read_parquet('{path}')")
errors = {}
for query in question["queries"]:
    try:
        connection.execute(f"COPY ({query['sql']}) TO '{query['path']}' (FORMAT parquet)")
        errors[query["name"]] = None
    except duckdb.Error as error:
        errors[query["name"]] = str(error).splitlines()[0]
print(json.dumps(errors))
