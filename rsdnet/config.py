"""Every knob of a pre-training run: its meaning, unit, default and where the default comes from.

The command line and the TOML file are both made from these dataclasses, and a run writes the configuration it used to
`config.toml`. The defaults are DeepMind's for BYOL (google-deepmind/deepmind-research, byol/configs/byol.py), on the
bands of the RSDnet paper (arXiv 2205.02049); "auto" is worked out from the run (rsdnet/training/settings.py).
"""

import dataclasses
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import tomli_w
import tyro
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from rsdnet import options
from rsdnet.errors import DataError
from rsdnet.options import Count, Pixels, Positive, Seed, Share, Workers

Statistics = Literal["database", "SEN12MS L1C", "BigEarthNet v2 L2A", "SSL4EO-S12 v1.0 L2A", "SSL4EO-S12 v1.0 L1C"]
Crop = Annotated[float, Field(gt=0, le=1)]
Aspect = Annotated[float, Field(ge=0.01, le=100)]
Gain = Annotated[float, Field(ge=0, le=100)]
Offset = Annotated[float, Field(ge=-1, le=1)]
Weight = Annotated[float, Field(ge=0, le=1e6)]
Decibel = Annotated[float, Field(ge=-100, le=100)]
MOST_CHANNELS = 64
View = Annotated[tuple[str, ...], Field(max_length=MOST_CHANNELS)]
Auto = Literal["auto"]
STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The patches that are read, and how."""

    __pydantic_config__ = STRICT
    FREE_ON_RESUME: ClassVar = {"data", "cache", "damaged", "lookahead", "slots", "reader_threads"}
    """Options that a continued run may change, since they change no result: `data` are paths, and a checkpoint knows
    their content (rsdnet/data/identity.py)."""

    data: tuple[Path, ...] = ()
    """Databases to train on, read as one: folders with data.mdb, or with the shards of an ingest. None: the embedded
    synthetic data."""
    split: Literal["train", "val", "test", "all"] = "train"
    """Split of the catalog to train on."""
    statistics: Statistics = "database"
    """Mean and standard deviation a band: the database's own (stats.json) or a published set (rsdnet/bands.py)."""
    weights: tuple[Annotated[float, Field(ge=0, le=1e9)], ...] = ()
    """Sampling weight of each database, normalised; none: each sample once an epoch."""
    pair_seasons: bool = False
    """Take the two views of a sample from two seasons of its place, drawn anew each epoch; SSL4EO-S12 alone. A place
    with one season is paired with itself, and counted."""
    damaged: Literal["leave out", "raise"] = "leave out"
    """A sample that cannot be read is left out and counted, or ends the run."""
    cache: Literal["none", "host", "device"] = "none"
    """Hold all raw bands in host memory or on the GPU, and read the disk no more; refused where they do not fit."""
    lookahead: Annotated[int, Field(ge=0, le=1024)] = 2
    """Batches that the operating system is told to prefetch from disk; 0: none."""
    slots: Annotated[int, Field(ge=2, le=1024)] = 4
    """Batches in memory at a time, pinned for a GPU: being read, ready, being copied."""
    reader_threads: Workers = 0
    """Threads of the C++ reader; 0: one a core."""


@dataclasses.dataclass(frozen=True)
class ViewConfig:
    """A view: its bands, its size, its augmentations."""

    __pydantic_config__ = STRICT
    FREE_ON_RESUME: ClassVar[set[str]] = set()

    modality: Literal["ms+sar", "ms", "sar"] = "ms+sar"
    """Sensors of the two views: one of each in random order, or both from one sensor (the paper's ablation)."""
    channels: Annotated[int, Field(ge=1, le=MOST_CHANNELS)] = 1
    """Bands in a view: 1 or 3 in the paper. Left at 1 it follows --ms-view and --sar-view."""
    ms_bands: tuple[str, ...] = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
    """Multispectral bands to draw from: the paper's ten of 10 and 20 m."""
    sar_bands: tuple[str, ...] = ("VV", "VH")
    """SAR bands to draw from."""
    ms_view: View = ()
    """Bands of every multispectral view, in this order, instead of drawn ones: B04,B03,B02. None: drawn."""
    sar_view: View = ()
    """Bands of every SAR view, likewise, and differences of two in dB: VV,VH,VV-VH. None: drawn."""
    size: Pixels = 128
    """Side of a view in pixels."""
    crop_scale: tuple[Crop, Crop] = (0.2, 1.0)
    """Share of the patch's area that a crop takes (Grill et al. 2020, appendix B: 0.08 to 1 of a photograph)."""
    crop_ratio: tuple[Aspect, Aspect] = (0.75, 1.3333333333333333)
    """Aspect ratio of a crop, width over height (Grill et al. 2020, appendix B)."""
    antialias: bool = True
    """Average where a crop has more pixels than the view (torchvision's antialias); without, four pixels are enough."""
    flip: bool = True
    """Mirror half of the views."""
    turn: bool = True
    """Turn views by a random multiple of 90 degrees: the ground has no up."""
    ms_gain: tuple[Gain, Gain] = (0.8, 1.2)
    """Range of the factor on multispectral values."""
    ms_offset: tuple[Offset, Offset] = (-0.02, 0.02)
    """Range of the offset added to multispectral values, in shares of full scale: of reflectance 1 (10,000 DN), or of
    255 in a database of 8-bit levels."""
    sar_offset: tuple[Decibel, Decibel] = (-2.0, 2.0)
    """Range of the offset added to backscatter, in dB."""
    blur: tuple[Share, Share] = (0.0, 0.0)
    """Probability of a Gaussian blur of the first and of the second view (Grill et al. 2020, appendix B: 1.0 and 0.1 on
    photographs); sigma 0.1 to 2 pixels, window a tenth of the side."""
    sar_looks: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    """Looks of the speckle added to SAR bands: the fewer, the more of it, from 1; 0: none."""

    def __post_init__(self) -> None:
        """Split the views' names at commas, and let `channels` follow them."""
        for name in ("ms_view", "sar_view"):
            names = tuple(part.strip() for word in getattr(self, name) for part in word.split(","))
            object.__setattr__(self, name, names)
        if self.channels == 1 and (fixed := self.fixed):
            object.__setattr__(self, "channels", len(next(iter(fixed.values()))))

    @property
    def fixed(self) -> dict[str, tuple[str, ...]]:
        """{sensor: channels of its view} of the run's sensors; {} where bands are drawn."""
        given = {"ms": self.ms_view, "sar": self.sar_view}
        return {name: given[name] for name in self.modality.split("+") if given[name]}


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Method, encoder, projector and predictor."""

    __pydantic_config__ = STRICT
    FREE_ON_RESUME: ClassVar = {"recompute"}

    method: str = "byol"
    """byol (Grill et al. 2020), simsiam (Chen and He 2021), or your own as package.module:Name."""
    encoder: str = "resnet50"
    """resnet18, resnet34 or resnet50 with torchvision's parameter names, timm:NAME for a model of timm, or your own as
    package.module:Name."""
    width: Annotated[int, Field(ge=1, le=4096)] = 64
    """Channels of a ResNet's first stage; 64 is torchvision's."""
    hidden: Annotated[int, Field(ge=1, le=2**16)] = 4096
    """Hidden units of projector and predictor (byol/configs/byol.py); SimSiam's projector has 2048."""
    dim: Annotated[int, Field(ge=1, le=2**14)] = 256
    """Dimensions of projection and prediction (byol/configs/byol.py); SimSiam's are 2048."""
    concatenate_views: bool = False
    """Let both views share BatchNorm's statistics, as byol-pytorch does; without, each has its own, as DeepMind's."""
    variance: Weight = 1.0
    """Weight of VICReg's variance term on the projections, against collapse (Bardes et al. 2022, eq. 1); 0: none."""
    covariance: Weight = 0.003
    """Weight of VICReg's covariance term on them, against few directions (Bardes et al. 2022, eq. 4); 0: none."""
    batchnorm: Literal["sync", "local"] = "sync"
    """On several ranks: statistics of BatchNorm over all ranks (BYOL's), or each rank's own."""
    recompute: bool = False
    """Activation checkpointing: keep each residual block's input alone and compute the rest again in the backward;
    resnet18, resnet34 and resnet50."""


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """How the weights move."""

    __pydantic_config__ = STRICT
    FREE_ON_RESUME: ClassVar = {"chosen"}

    epochs: Positive = 100
    """Passes over the data."""
    steps: Count = 0
    """Length of the whole schedule in steps, instead of epochs; 0: epochs."""
    batch: Annotated[int, Field(ge=2, le=2**20)] = 1024
    """Samples in a step, over all ranks and micro-batches."""
    accumulate: Annotated[int, Field(ge=1, le=2**20)] = 1
    """Micro-batches in a step: gradients add up to the batch's, BatchNorm sees a micro-batch at a time."""
    optimizer: str = "auto"
    """lars as DeepMind wrote it, torch's sgd (momentum 0.9) or adamw, or your own as package.module:Name;
    auto: lars for long runs of large batches, else adamw."""
    schedule: str = "cosine"
    """Learning rate after the warm-up: cosine (to 0), constant, or your own as package.module:Name."""
    lr: Annotated[float, Field(gt=0, le=1e30)] | Auto = "auto"
    """Base learning rate; a step uses lr * batch / 256 (byol/configs/byol.py); auto: by optimizer, batch and steps."""
    warmup_epochs: Annotated[float, Field(ge=0, le=1e9)] | Auto = "auto"
    """Linear warm-up, at most a tenth of the run; auto: 10 epochs (byol/configs/byol.py)."""
    weight_decay: Annotated[float, Field(ge=0, le=1e4)] | Auto = "auto"
    """Weight decay; none on biases and norm parameters (byol/configs/byol.py); auto: by optimizer."""
    tau: Share | Auto = "auto"
    """BYOL's target: its momentum at the first step, rising to 1 by a cosine (byol/configs/byol.py); auto: by steps."""
    chosen: tyro.conf.Suppress[dict[str, str]] = dataclasses.field(default_factory=dict, hash=False)
    """Options of this table that were auto, each with the reason of its value."""


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """Where and how the run goes."""

    __pydantic_config__ = STRICT
    FREE_ON_RESUME: ClassVar = {
        "run", "resume", "threads", "cuda_graph", "log_every", "checkpoint_every", "keep", "keep_every", "max_skipped",
        "knn_every", "knn_data", "profile", "tensorboard", "licence",
    }  # fmt: skip

    run: Annotated[Path | None, tyro.conf.arg(aliases=["--out"])] = None
    """Folder of the run: checkpoint, metrics, config. None: runs/DATE-TIME. --out is the same: torchrun takes --run
    for an option of its own."""
    resume: bool = False
    """Continue the run in --run from its last sound checkpoint; begin it where there is none."""
    seed: Seed = 0
    """Seed of weights, order and views."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; auto: the GPU where there is one."""
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """Autocast type (fp16 with loss scaling); auto: bf16 if the hardware has it, else fp16 on a GPU
    and fp32 on a CPU."""
    compile: Literal["auto", "on", "off"] = "auto"
    """torch.compile of the step, which takes a minute or two; auto: on a GPU, for 2,000 steps or more,
    and where the run is profiled."""
    cuda_graph: Literal["auto", "on", "off"] = "auto"
    """Replay the whole step from one CUDA graph; auto: where the host takes longer to launch a step than the GPU to run
    it (small views, small batches), and on one rank."""
    tf32: bool = True
    """Let a GPU multiply float32 in TF32 (--precision fp32; the others multiply in 16 bits anyway)."""
    channels_last: bool = True
    """NHWC memory format of encoder and views."""
    threads: Workers = 0
    """CPU threads of torch; 0: torch's choice."""
    log_every: Positive = 10
    """Steps between metrics, and between reads of the device."""
    checkpoint_every: Positive = 500
    """Steps between checkpoints; one is always written at the end."""
    keep: Positive = 2
    """Checkpoints that are kept: the newest ones."""
    keep_every: Count = 0
    """Also keep each checkpoint whose step is a multiple of this; 0: none."""
    max_skipped: Positive = 20
    """Consecutive steps that may be skipped because their gradient is not finite; then the run ends."""
    knn_every: Count = 0
    """Epochs between kNN evaluations of the encoder on labelled samples; 0: none."""
    knn_data: tuple[Path, ...] = ()
    """Labelled databases for them; none: the run's own data."""
    profile: Annotated[int, Field(ge=0, le=10_000)] = 0
    """Steps to profile, after a few to warm up: RUN/profile.json, a table, and RUN/trace.json for chrome://tracing."""
    tensorboard: bool = False
    """Also write TensorBoard events into the run."""
    licence: Annotated[str, Field(max_length=100)] = ""
    """Licence of the weights as SPDX names it, for the encoder's file and its model card: CC-BY-4.0; none: unknown."""


@dataclasses.dataclass(frozen=True)
class Config:
    """A pre-training run."""

    __pydantic_config__ = STRICT

    data: DataConfig = DataConfig()
    views: ViewConfig = ViewConfig()
    model: ModelConfig = ModelConfig()
    optim: OptimConfig = OptimConfig()
    run: RunConfig = RunConfig()


GONE = {"access"}  # keys of [data] in older runs' files, ignored so that those runs resume
BEFORE = {"model": {"variance": 0.0, "covariance": 0.0}}  # what runs did that are older than the keys
_ADAPTER = TypeAdapter(Config)


def _check_booleans(tables: dict[str, Any], where: str) -> None:
    """Raise DataError on true or false for an option that is neither: pydantic takes them for 1 and 0."""
    defaults = Config()
    for section, table in tables.items():
        for key, value in table.items() if isinstance(table, dict) else ():
            given = [each for each in (value if isinstance(value, list) else [value]) if isinstance(each, bool)]
            if given and not isinstance(getattr(getattr(defaults, section, None), key, True), bool):
                raise DataError(f"{where}: {section}.{key} = {str(given[0]).lower()}: neither true nor false fits it")


def from_tables(tables: dict[str, Any], where: str) -> Config:
    """`tables` as a valid configuration. Raises DataError that names `where` and the first bad key."""
    if isinstance(data := tables.get("data"), dict):
        tables = tables | {"data": {key: value for key, value in data.items() if key not in GONE}}
    _check_booleans(tables, where)
    try:
        config = _ADAPTER.validate_python(tables)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for at, part in enumerate(first["loc"]) if at < 2 or isinstance(part, int))
        if first["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
            raise DataError(f"{where}: unknown key {key}; python -m rsdnet.train --help lists them all") from None
        raise DataError(f"{where}: {key} = {first['input']!r}: {options.reason(error)}") from None
    for name in ("crop_scale", "crop_ratio", "ms_gain", "ms_offset", "sar_offset"):
        low, high = getattr(config.views, name)
        if low > high:
            raise DataError(f"{where}: views.{name}: the range ends at {high}, before it starts at {low}")
    if 0 < config.views.sar_looks < 1:
        raise DataError(f"{where}: views.sar_looks = {config.views.sar_looks}: use 1 or more, or 0 for no speckle")
    _check_fixed(config.views, where)
    return config


def _check_fixed(views: ViewConfig, where: str) -> None:
    """Raise DataError on views of fixed bands that one encoder cannot see."""
    given = [name for name, view in (("ms", views.ms_view), ("sar", views.sar_view)) if view]
    fixed = views.fixed
    for name in views.modality.split("+"):
        if given and name not in fixed:
            raise DataError(
                f"{where}: views.{given[0]}_view is given, views.{name}_view is not: name a view of each sensor of "
                f"modality {views.modality}"
            )
    if len({len(view) for view in fixed.values()}) > 1:
        raise DataError(
            f"{where}: views.ms_view has {len(views.ms_view)} channels, views.sar_view {len(views.sar_view)}: "
            "one encoder sees both, so name as many of each"
        )
    for name, view in fixed.items():
        if len(view) != views.channels:
            raise DataError(
                f"{where}: views.{name}_view has {len(view)} channels, but views.channels is {views.channels}: "
                f"make it {len(view)}, or leave it out"
            )


def to_tables(config: Config) -> dict[str, dict[str, Any]]:
    """The configuration as {section: {key: plain value}}; keys that are None, and empty tables, are left out."""
    tables = _ADAPTER.dump_python(config, mode="json")
    return {s: {k: v for k, v in table.items() if v is not None and v != {}} for s, table in tables.items()}


def read(*paths: Path) -> Config:
    """The configuration in TOML files with tables [data], [views], [model], [optim], [run], over the defaults.

    A key of several files has the last one's value.
    Raises DataError on a file that is not there or not TOML, an unknown key, or a value out of its type or range.
    """
    files = {path: _load(path) for path in paths}
    joined: dict[str, Any] = {}
    for path, tables in files.items():
        if not all(isinstance(table, dict) for table in tables.values()):
            from_tables(tables, f"config {path}")  # raises: nothing but tables is known
        for name, table in tables.items():
            joined[name] = joined.get(name, {}) | table
    try:
        return from_tables(joined, f"config {', '.join(map(str, paths))}")
    except DataError:
        for path, tables in files.items():  # the file with the mistake, where it is one file's
            from_tables(tables, f"config {path}")
        raise


def of_run(tables: dict[str, Any], where: str) -> Config:
    """The configuration that a run has noted in `tables`; options that it is older than are as they were then.

    Raises DataError as `from_tables` does.
    """
    noted = {name: BEFORE.get(name, {}) | table if isinstance(table, dict) else table for name, table in tables.items()}
    return from_tables(noted, where)


def read_run(path: Path) -> Config:
    """The configuration in a run's config.toml, as `of_run` takes it. Raises DataError as `read` does."""
    return of_run(_load(path), f"config {path}")


def _load(path: Path) -> dict[str, Any]:
    """The tables of a TOML file."""
    try:
        return tomllib.loads(path.read_text("utf-8-sig"))
    except OSError as error:
        raise DataError(f"config {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # not UTF-8, not TOML, numbers of thousands of digits, nested deeply
        raise DataError(f"config {path} is not TOML: {error}") from None


def dumps(config: Config) -> str:
    """The configuration as a TOML file that `read` takes."""
    return tomli_w.dumps(to_tables(config))


def differences(saved: Config, asked: Config) -> list[str]:
    """Keys that a continued run may not change, with both values."""
    old, new = to_tables(saved), to_tables(asked)
    return [
        f"{section}.{key} ({old[section].get(key)} in the run, {new[section].get(key)} asked)"
        for section in old
        for key in old[section] | new[section]
        if key not in getattr(saved, section).FREE_ON_RESUME and old[section].get(key) != new[section].get(key)
    ]


def continued(asked: Config, saved: Config) -> Config:
    """`asked` with the values, and the reasons, that the run `saved` has for options of [optim] that are auto."""
    names = (field.name for field in dataclasses.fields(asked.optim))
    own = {name: getattr(saved.optim, name) for name in names if getattr(asked.optim, name) == "auto"}
    return dataclasses.replace(asked, optim=dataclasses.replace(asked.optim, **own, chosen=saved.optim.chosen))


def number(value: float | Auto) -> float:
    """The value of an option. Raises ValueError on "auto", which rsdnet/training/settings.py replaces."""
    if value == "auto":
        raise ValueError("an option of [optim] is still auto: rsdnet.training.settings.fitted gives it a value")
    return value


def parse(argv: Sequence[str], default: Config, prog: str, description: str) -> Config:
    """The configuration of a command line, over `default`. `--help` prints and exits with 0.

    Raises DataError on an unknown option, and on a value out of its type or range.
    """
    flat = tyro.conf.configure(tyro.conf.OmitArgPrefixes)
    config = options.read(
        lambda: tyro.cli(flat(Config), args=argv, default=default, prog=prog, description=description), argv
    )
    return from_tables(to_tables(config), "command line")
