"""BigEarthNet v2: `BigEarthNet-S2/<tile>/<patch>/<patch>_B02.tif`, `BigEarthNet-S1/<scene>/<patch>/<patch>_VV.tif`,
`Reference_Maps/<tile>/<patch>/<patch>_reference_map.tif`, and `metadata.parquet`, which pairs S1 with S2 and has their
labels.

Keys and values are rico-hdl's. Without metadata.parquet S1 and S2 stay unpaired: a sample each.
"""

from dataclasses import dataclass
from pathlib import Path

from rsdnet import bands
from rsdnet.ingest.files import add, subfolders
from rsdnet.ingest.layouts.base import Layout
from rsdnet.ingest.layouts.bigearthnet_tables import CLASSES, METADATA, S1, UNCLEAR, Tables, Unlisted, recipe
from rsdnet.ingest.source import Image, Recipe, Source

__all__ = ["CLASSES", "BigEarthNet"]

_COLLECTIONS = ("BigEarthNet-S2", "BigEarthNet-S1", "Reference_Maps")


@dataclass(frozen=True)
class BigEarthNet(Layout):
    """BigEarthNet v2."""

    unlisted: Unlisted = "leave-out"
    """Patches that metadata.parquet does not list: leave them out; or keep them, with the splits and pairs of
    metadata_for_patches_with_snow_cloud_or_shadow.parquet where it lists them, else alone and with splits drawn.
    rsdnet.probe leaves out those with snow, clouds or shadow unless asked for."""

    NAME = "bigearthnet"
    FILES = "BigEarthNet-S2/<tile>/<patch> nor BigEarthNet-S1/<scene>/<patch>"
    GROUPS = "tiles or scenes"
    SPLITS = f"those of {METADATA}"

    def sources(self) -> list[Source]:
        s2, s1, maps = map(self._patches, _COLLECTIONS, (bands.S2L2A, S1, ()))
        if not s2 and not s1:
            return []
        paths = (self.source / name for name in (METADATA, UNCLEAR))
        tables = Tables(tuple(path for path in paths if path.is_file()), self.unlisted, self.notices)
        if not tables.listed:
            self.notices.append(f"no {METADATA} in {self.source}: S1 and S2 are not paired, splits are drawn")
        found = [*tables.samples(s2, s1, maps, _scene, "a folder")]
        self.tell_unread(_COLLECTIONS)
        return found

    def _patches(self, collection: str, names: tuple[str, ...]) -> dict[str, Image]:
        """The images of a collection by patch: one file a band; without band names, the reference maps.

        Raises DataError if two scenes hold a patch of one name.
        """
        root = self.source / collection
        folders: dict[str, Path] = {}
        for scene in subfolders(root):
            for patch in subfolders(root / scene):
                add(folders, patch, root / scene / patch)
        found = {}
        for patch, folder in folders.items():
            files = tuple((f"{folder / patch}_{name}.tif", (name,)) for name in names)
            reference = Image.of_file(folder / f"{patch}_reference_map.tif", ("Data",))
            found[patch] = Image(patch, files) if names else reference
        return found

    def recipe(self) -> Recipe:
        return recipe()


def _scene(image: Image) -> str:
    """The name of a patch's tile or scene."""
    return Path(image.files[0][0]).parent.parent.name
