from pathlib import Path

from glczoo.data.region import Region

REGION = """
name: here
modalities:
  - name: climate
    {key}: CHELSA
    bands: [{{name: bio1, file: bio1.tif, {key}: a station}}]
tables: {{}}
"""


def test_the_earlier_name_of_provenance_is_read(tmp_path: Path):
    for key in ("provenance", "source"):
        (tmp_path / "region.yaml").write_text(REGION.format(key=key))
        (modality,) = Region.load(tmp_path).modalities
        assert (modality.provenance, modality.bands[0].provenance) == ("CHELSA", "a station")
