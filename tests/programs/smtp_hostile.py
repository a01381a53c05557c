"""Hostile SMTP clients: random sessions of every bad habit, the same ones for the same seed."""

import random

LINE_ENDS = (b"\r\n",) * 12 + (b"\n", b"\r", b"\r\r\n", b"\n\r", b"\0\r\n", b"")
VERBS = (
    b"HELO",
    b"EHLO",
    b"MAIL",
    b"RCPT",
    b"DATA",
    b"BDAT",
    b"RSET",
    b"NOOP",
    b"VRFY",
    b"mail",
    b"rCpT",
    b"dAtA",
    b"XYZZY",
    b"",
)
ADDRESSES = (
    b"<a@client.test>", b"<>", b"<b@here.test>", b"<c@HERE.test>", b"<d@elsewhere.test>", b"<e@[127.0.0.1]>", b"<f",
    b"<@r,@s:g@here.test>", b'<"h>"@here.test>', b"<i\\>j@here.test>", b"k@here.test", b": l@here.test x", b"@m",
    b"<@n>", b"<o@here.test> SIZE=10", b"<p@here.test> SIZE=99999999999999999999999", b"<" + b"q" * 899 + b">",
    b"<" + b"r" * 900, b'<"s', b"<t\\", b"<u@.sub.test>", b"<v@x.sub.test>", b"<w@[1.2.3]>", b"<@[::1]>",
    b"<x@y@here.test>", b"<z\xff@here.test>",
)  # fmt: skip
TEXT = (
    b"Subject: x", b"Received: y", b"delivered-To: z", b"", b".", b"..", b".x", b"..x", b"\0", b"a\rb", b".\r", b"\r",
    b"\xff" * 9, b"text " * 30,
)  # fmt: skip
JUNK = (b"\0", b"\r", b"\n", b".", b"\r\n.\r\n", b"\n.\n", b"\r.\r", b"\n.\r\n", b"\r\n.\n", b"\x80", b" ", b"<", b'"')


def session(seed: int) -> bytes:
    """What one client says."""
    rng = random.Random(seed)
    kind = rng.random()
    if kind < 0.05:
        return rng.randbytes(rng.randrange(2000))
    parts: list[bytes] = []
    for _ in range(rng.randrange(1, 9)):
        if rng.random() < 0.4:
            parts += _transaction(rng)
        else:
            parts += _command(rng)
    if rng.random() < 0.5:
        parts.append(b"QUIT\r\n")
    if kind < 0.3:
        parts.insert(rng.randrange(len(parts) + 1), rng.choice(JUNK))
    wire = b"".join(parts)
    return wire[: rng.randrange(len(wire) + 1)] if kind > 0.9 else wire


def _command(rng: random.Random) -> list[bytes]:
    verb = rng.choice(VERBS)
    argument = rng.choice((b"", b" ", b" FROM:", b" TO:", b"\t")) + rng.choice(ADDRESSES)
    return [verb, argument if rng.random() < 0.8 else b"", rng.choice(LINE_ENDS)]


def _transaction(rng: random.Random) -> list[bytes]:
    parts = [b"MAIL FROM:" + rng.choice(ADDRESSES) + b"\r\n"]
    parts += [b"RCPT TO:" + rng.choice(ADDRESSES) + b"\r\n" for _ in range(rng.randrange(4))]
    parts.append(b"RCPT TO:<sure@here.test>\r\n")
    if rng.random() < 0.3:
        return [*parts, *_chunks(rng)]
    parts.append(b"DATA\r\n")
    ends = LINE_ENDS if rng.random() < 0.2 else (b"\r\n",)
    for _ in range(rng.randrange(12)):
        parts += [rng.choice(TEXT), rng.choice(ends)]
    if rng.random() < 0.05:
        parts.append(b"Received: many\r\n" * rng.choice((99, 100)))
    parts.append(b"\r\n.\r\n" if rng.random() < 0.9 else rng.choice(JUNK))
    return parts


def _chunks(rng: random.Random) -> list[bytes]:
    """A message by BDAT, whose sizes may lie, and which may have no end."""
    parts = []
    for number in range(rng.randrange(1, 4)):
        text = b"".join(rng.choice(TEXT) + rng.choice(LINE_ENDS) for _ in range(rng.randrange(4)))
        size = (
            b"%d" % len(text) if rng.random() < 0.8 else rng.choice((b"0", b"3", b"500", b"-1", b"9" * 20, b"", b"x"))
        )
        last = rng.choice((b" LAST", b" last", b" FIRST", b" LAST x")) if number or rng.random() < 0.5 else b""
        parts += [b"BDAT ", size, last, b"\r\n", text]
    return parts
