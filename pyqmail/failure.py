"""Failures whose type says what happens to the message next (style: one question, would a later attempt succeed?)."""


class MailFailure(Exception):
    """A delivery or submission that did not happen; ``text`` is for people, without a trailing newline."""

    def __init__(self, text: bytes) -> None:
        super().__init__(text)
        self.text = text


class TemporaryFailure(MailFailure):
    """The same attempt later may succeed: the message stays queued."""


class PermanentFailure(MailFailure):
    """It never will: the message bounces."""
