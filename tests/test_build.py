"""The built extension shows nothing but its entry, whatever else is loaded into the process."""

import shutil
import subprocess

import pytest

import rsdnet._reader


def test_the_extension_hides_its_symbols() -> None:
    if shutil.which("nm") is None:
        pytest.skip("no nm (binutils)")
    library = rsdnet._reader.__file__
    assert library is not None
    listing = subprocess.run(["nm", "-D", "--defined-only", library], capture_output=True, text=True, check=True).stdout
    # Weak symbols are the templates'.
    strong = [line.split()[2] for line in listing.splitlines() if line.split()[1] in "TDB"]
    assert strong == ["PyInit__reader"]
