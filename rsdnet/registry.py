"""Registries: methods, encoders, optimizers, schedules and data set layouts by name, or from outside the package."""

import difflib
import functools
import importlib
from typing import Any, Generic, TypeVar, cast

from rsdnet.errors import DataError

T = TypeVar("T")


class Registry(dict[str, Any], Generic[T]):
    """Factories by name; one line adds one: `METHODS["mine"] = MyMethod`.

    kind: what they are, for error messages: "method". A value is the factory, or "package.module:Name", which is
    imported when it is first needed. A name that ends in ":" stands for a family: its factory takes what follows the
    colon first, so that `ENCODERS["timm:"] = timm_encoder` makes "timm:vit_tiny" call timm_encoder("vit_tiny", ...).
    """

    def __init__(self, kind: str, entries: dict[str, Any]) -> None:
        super().__init__(entries)
        self.kind = kind

    def find(self, name: str) -> T:
        """The factory of a registered name, or the object that "package.module:Name" names.

        Raises DataError on an unknown name, listing the known ones, and on a module or object that cannot be imported.
        """
        family, colon, rest = name.partition(":")
        if name in self and not name.endswith(":"):
            return self._imported(self[name])
        if rest and family + colon in self:
            return cast(T, functools.partial(self._imported(self[family + colon]), rest))
        if rest:
            return self._imported(name)
        close = difflib.get_close_matches(name, self, 1)
        raise DataError(
            f"unknown {self.kind} {name!r}{f' (did you mean {close[0]}?)' if close else ''}: use {self.names()}"
        )

    def names(self) -> str:
        """The names to choose from, as a sentence lists them."""
        known = [f"{name}NAME" if name.endswith(":") else name for name in self]
        return ", ".join(known) + " or your own as package.module:Name"

    def _imported(self, entry: Any) -> Any:
        if not isinstance(entry, str):
            return entry
        module, _, attribute = entry.partition(":")
        try:
            return functools.reduce(getattr, attribute.split("."), importlib.import_module(module))
        except (ImportError, AttributeError, ValueError) as error:
            raise DataError(f"{self.kind} {entry!r} cannot be imported: {error}") from None
