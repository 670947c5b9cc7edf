"""The configuration: one source for command line and file, and one line for each mistake."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsdnet import config
from rsdnet.config import Config, OptimConfig, ViewConfig
from rsdnet.errors import DataError

CONFIGS = st.builds(
    Config,
    views=st.builds(
        ViewConfig,
        modality=st.sampled_from(["ms+sar", "ms", "sar"]),
        channels=st.integers(1, 5),
        size=st.integers(1, 512),
        crop_scale=st.tuples(st.floats(0.01, 0.5), st.floats(0.5, 1)),
        flip=st.booleans(),
        ms_bands=st.lists(st.sampled_from(["B02", "B08"]), min_size=1, unique=True).map(tuple),
    ),
    optim=st.builds(OptimConfig, lr=st.floats(1e-6, 10), batch=st.integers(2, 4096), tau=st.floats(0, 1)),
)


def parse(*argv: str, default: Config | None = None) -> Config:
    return config.parse(argv, default or Config(), "prog", "text")


@given(CONFIGS)
def test_a_written_file_reads_back_the_same(tmp_path_factory: pytest.TempPathFactory, cfg: Config) -> None:
    path = tmp_path_factory.mktemp("config") / "config.toml"
    path.write_text(config.dumps(cfg))
    assert config.read(path) == cfg


def test_the_command_line_goes_over_the_file() -> None:
    base = dataclasses.replace(Config(), views=ViewConfig(size=32, channels=3))
    cfg = parse("--size", "64", "--data", "a", "b", "--no-flip", default=base)
    assert (cfg.views.size, cfg.views.channels, cfg.views.flip) == (64, 3, False)
    assert cfg.data.data == (Path("a"), Path("b"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[views]\nsze = 3\n", "unknown key views.sze"),
        ("[sights]\nsize = 3\n", "unknown key sights"),
        ("[views]\nsize = 'big'\n", "views.size = 'big'"),
        ("[views]\nsize = 0\n", "views.size = 0"),
        ("[optim]\nbatch = 1\n", "optim.batch = 1"),
        ("[optim]\nlr = true\n", "optim.lr = true"),
        ("[data]\nweights = [2, true]\n", "data.weights = true"),
        ("[optim]\nlearning_rate = true\n", "unknown key optim.learning_rate"),
        ("[run]\nseed = false\n", "run.seed = false"),
        ("[views]\ncrop_scale = [0.9, 0.1]\n", "views.crop_scale"),
        ("[views]\nms_gain = [nan, 1.0]\n", "views.ms_gain"),
        ("[views]\nsar_looks = 0.5\n", "views.sar_looks"),
        ("[views]\nmodality = 'radar'\n", "views.modality"),
        ("[views\n", "is not TOML"),
        ("x = " + "[" * 5000, "is not TOML"),
        ("[run]\nseed = " + "9" * 5000, "is not TOML"),
    ],
)
def test_a_mistake_in_the_file_is_one_line_that_names_it(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "run.toml"
    path.write_text(text)
    with pytest.raises(DataError, match=r"run\.toml") as caught:
        config.read(path)
    assert words in str(caught.value)


TEN = "B02,B03,B04,B05,B06,B07,B08,B8A,B11,B12"


def test_views_of_fixed_bands_set_the_channels(tmp_path: Path) -> None:
    cfg = parse("--ms-view", "B04,B03,B02", "--sar-view", "VV,VH,VV-VH")
    assert cfg.views.fixed == {"ms": ("B04", "B03", "B02"), "sar": ("VV", "VH", "VV-VH")}
    assert cfg.views.channels == 3
    path = tmp_path / "run.toml"
    path.write_text('[views]\nms_view = ["B04", "B03", "B02"]\nsar_view = ["VV", "VH", "VV-VH"]\n')
    assert config.read(path) == cfg
    path.write_text(config.dumps(cfg))
    assert config.read(path) == cfg
    assert parse("--modality", "ms", "--ms-view", TEN).views.channels == 10
    assert parse("--ms-view", "B04", "B03", "--modality", "ms", "--channels", "2").views.ms_view == ("B04", "B03")
    assert Config().views.fixed == {}


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ("--ms-view B04,B03,B02", "views.ms_view is given, views.sar_view is not"),
        ("--modality sar --ms-view B04", "views.ms_view is given, views.sar_view is not"),
        ("--ms-view B04,B03,B02 --sar-view VV,VH", "views.ms_view has 3 channels, views.sar_view 2: one encoder"),
        ("--modality ms --ms-view B04,B03 --channels 3", "views.ms_view has 2 channels, but views.channels is 3"),
        ("--modality sar --sar-view " + ",".join(["VV"] * 65), "views.channels = 65"),
    ],
)
def test_views_that_one_encoder_cannot_see_are_refused(argv: str, words: str) -> None:
    with pytest.raises(DataError, match="command line") as caught:
        parse(*argv.split())
    assert words in str(caught.value)


def test_a_byte_order_mark_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_bytes(b"\xef\xbb\xbf[views]\r\nsize = 64\r\n")
    assert config.read(tmp_path / "c.toml").views.size == 64


def test_a_file_of_an_older_run_is_read_without_its_access(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text('[data]\naccess = "pread"\nslots = 3\n')
    assert config.read(path) == dataclasses.replace(Config(), data=config.DataConfig(slots=3))


def test_a_run_older_than_an_option_goes_on_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("[model]\nwidth = 8\n")
    was, now = config.read_run(path), config.read(path)
    assert (was.model.width, was.model.variance, was.model.covariance) == (8, 0, 0)
    assert now.model.covariance > 0
    path.write_text(config.dumps(now))
    assert config.read_run(path) == now


def test_of_several_files_the_last_ones_value_counts(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("[views]\nsize = 64\nchannels = 3\n")
    (tmp_path / "b.toml").write_text("[views]\nsize = 32\n[optim]\nlr = 0.3\n")
    views, optim = ViewConfig(size=32, channels=3), OptimConfig(lr=0.3)
    assert config.read(tmp_path / "a.toml", tmp_path / "b.toml") == Config(views=views, optim=optim)


@pytest.mark.parametrize(
    ("text", "words"), [("[views]\nsise = 1\n", "unknown key views.sise"), ("views = 3\n", "views")]
)
def test_of_several_files_the_one_with_the_mistake_is_named(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "a.toml").write_text("[views]\nsize = 64\n")
    (tmp_path / "b.toml").write_text(text)
    for order in ("ab", "ba"):
        with pytest.raises(DataError, match=rf"^config \S*b\.toml: .*{words}"):
            config.read(*(tmp_path / f"{name}.toml" for name in order))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.toml"):
        config.read(tmp_path / "none.toml")


def test_a_value_out_of_range_on_the_command_line() -> None:
    with pytest.raises(DataError, match=r"views\.size = 0"):
        parse("--size", "0")


def test_differences_name_what_a_continued_run_may_not_change() -> None:
    assert config.differences(Config(), parse("--log-every", "3")) == []
    (line,) = config.differences(Config(), parse("--lr", "0.5"))
    assert "optim.lr" in line
    assert "auto in the run" in line
    assert "0.5" in line


def test_help_names_every_knob() -> None:
    done = subprocess.run([sys.executable, "-m", "rsdnet.train", "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    for section in dataclasses.fields(Config):
        for field in dataclasses.fields(getattr(Config(), section.name)):
            if field.name == "chosen":  # of a run's file alone
                assert "chosen" not in done.stdout
                continue
            assert f"--{field.name.replace('_', '-')}" in done.stdout
    assert "--config" in done.stdout
    assert "(default: resnet50)" in done.stdout  # the defaults with --data, not those of the demo


def test_training_imports_neither_rasterio_nor_lmdb() -> None:
    code = "import sys, rsdnet.train; print(sorted({'rasterio', 'lmdb', 'scipy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_import_of_the_package_is_instant() -> None:
    code = "import sys, rsdnet; print(sorted({'torch', 'numpy', 'rich'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_without_data_the_synthetic_scenes_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A configuration file that names no database does not train on them in silence."""
    from rsdnet import train
    from rsdnet.synthetic import demo

    monkeypatch.setattr(demo, "prepare", lambda: tmp_path / "db")
    (tmp_path / "c.toml").write_text("[optim]\ntau = 0.3\n")
    cfg, saved = train.configure(["--config", str(tmp_path / "c.toml"), "--run", str(tmp_path / "run")])
    assert train.complete(cfg, saved).data.data == (tmp_path / "db",)
    assert f"embedded synthetic scenes, {tmp_path / 'db'}" in capsys.readouterr().out
