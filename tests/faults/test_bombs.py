"""Small files that stand for much, or for something without end: refused before memory is taken for it."""

import sqlite3

import pandas as pd
import pytest

from glczoo.data import table_files
from glczoo.data.table_files import open_table
from glczoo.errors import GlczooError
from glczoo.json_text import read_json


def test_a_parquet_file_of_equal_values_is_not_believed(tmp_path, monkeypatch):
    pd.DataFrame({"lon": [1.0] * 300_000}).to_parquet(tmp_path / "t.parquet")
    monkeypatch.setattr(table_files, "_BELIEVED", 1000)
    monkeypatch.setattr(table_files, "_ROWS_A_BYTE", 10)
    with pytest.raises(GlczooError, match="claims 300,000 rows in"):
        open_table(tmp_path / "t.parquet")


ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT 'p' AS table_name, i FROM n"


@pytest.mark.parametrize("name", ["gpkg_geometry_columns", "plots"])
def test_a_view_without_end_is_not_read(tmp_path, name):
    path = tmp_path / "t.gpkg"
    with sqlite3.connect(path) as connection:
        connection.execute(
            "CREATE TABLE gpkg_spatial_ref_sys (srs_id, organization, organization_coordsys_id)"
        )
        if name == "plots":
            connection.execute("CREATE TABLE gpkg_geometry_columns (table_name, column_name, srs_id)")
            connection.execute("INSERT INTO gpkg_geometry_columns VALUES ('plots', 'i', 4326)")
        connection.execute(f"CREATE VIEW {name} AS {ENDLESS}")
    connection.close()
    with pytest.raises(GlczooError, match=f"{name} is a view and no table"):
        open_table(path)


def test_json_that_nests_without_end_or_is_vast_is_refused(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("[" * 100_000)
    with pytest.raises(GlczooError, match=r"a\.json: this JSON is nested too deeply"):
        read_json(path)
    with open(path, "wb") as file:
        file.truncate(2**26 + 1)
    with pytest.raises(GlczooError, match="67,108,864 are allowed"):
        read_json(path)
