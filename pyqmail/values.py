"""Values: small objects that nobody changes once they are made."""

from dataclasses import dataclass

from pyqmail.system.typed import TypeVar, dataclass_transform

Class = TypeVar("Class")


@dataclass_transform(frozen_default=True)
def value(cls: type[Class]) -> type[Class]:
    """A dataclass with slots, equal and hashed by its fields, for values of which each message makes some.

    It is frozen for mypy alone. What dataclass(frozen=True) makes refuses at run time too, and to that end sets each
    field by object.__setattr__: with five fields that takes seven times as long, and qmail-send made 13 for a message.
    """
    return dataclass(slots=True, unsafe_hash=True)(cls)
