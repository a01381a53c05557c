"""The names of typing for modules that stay in memory, without typing: 0.6 MiB, a twelfth of what each fork maps anew.

At run time they are classes that say nothing; mypy sees typing's own.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Generic, Literal, Protocol, Self, TypeVar, cast, dataclass_transform

    __all__ = ("Any", "Generic", "Literal", "Protocol", "Self", "TypeVar", "cast", "dataclass_transform")
else:

    class Any:
        """Nothing; ``Any[...]`` and what else has arguments is the same."""

        __slots__ = ()

        def __class_getitem__(cls, arguments):
            return cls

    class Generic(Any):
        """A base of its own, as a class may have it beside Protocol."""

        __slots__ = ()

    class Protocol(Any):
        """The same."""

        __slots__ = ()

    Literal = Self = Any

    def TypeVar(name):  # noqa: N802 - typing's name
        """What stands for any type."""
        return Any

    def cast(kind, value):
        """``value``, whatever it is."""
        return value

    def dataclass_transform(**_said):
        """A decorator that changes nothing."""
        return lambda made: made
