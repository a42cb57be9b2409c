"""The species table of a region: ids, names, and how finely sensitive species may be shown."""

import numpy as np

from glczoo.data.occurrences import SpeciesIndex, name_key
from glczoo.data.places import numbers
from glczoo.data.region import Region
from glczoo.data.table_files import open_table
from glczoo.data.table_rows import integers, require
from glczoo.errors import GlczooError

__all__ = ["guard", "read_species_table"]


def read_species_table(region: Region) -> SpeciesIndex:
    """The vocabulary that a region's species table lists.

    Raises:
        MissingError: the table is not there.
        GlczooError: it is empty, lacks a column, or names a species twice.
    """
    table = region.species
    assert table is not None
    path = region.find(table.file)
    columns = [table.id, *filter(None, [table.name, table.sensitive])]
    file = open_table(path, table.separator)
    frame = file.read(columns)
    require(frame, path, columns, file.names)
    if not len(frame):
        raise GlczooError(f"{path}: the species table has a header and no rows")
    ids = integers(frame[table.id], path)
    order = np.argsort(ids, kind="stable")
    ids = ids[order]
    if (np.diff(ids) == 0).any():
        raise GlczooError(f"{path}: species {ids[1:][np.diff(ids) == 0][:5].tolist()} stand there twice")
    names: tuple[str, ...] = ()
    if table.name:
        names = tuple(frame[table.name].astype(object).fillna("").astype(str).iloc[order])
    kilometres = None
    if table.sensitive:
        kilometres = np.nan_to_num(numbers(frame[table.sensitive])[0])[order]
        if (kilometres < 0).any():
            raise GlczooError(f"{path}: {table.sensitive} holds kilometres below 0")
    return SpeciesIndex(ids, names, kilometres if kilometres is not None and kilometres.any() else None)


def guard(species: SpeciesIndex, region: Region) -> SpeciesIndex:
    """The species with what `sensitive` of region.yaml says of them.

    Raises:
        GlczooError: it names a species that there is not.
    """
    known = {name_key(name) for name in species.names} | {str(i) for i in species.ids.tolist()}
    unknown = [str(name) for name in region.sensitive if name_key(str(name)) not in known]
    if unknown:
        raise GlczooError(
            f"region {region.name}: `sensitive` names species that there are not: {', '.join(unknown)}; "
            "write their speciesId, or their name as the species table has it"
        )
    return species.guarded(region.sensitive)
