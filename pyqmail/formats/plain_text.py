"""Text files as editors of other systems leave them: CR LF, byte order marks, UTF-16. Pure and light."""

UTF8_MARK = b"\xef\xbb\xbf"
UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


def plain_text(data: bytes) -> bytes:
    """``data`` with line ends of LF only, without a byte order mark; UTF-16 becomes UTF-8. Never raises.

    CR before a line end is dropped, however many; in a file without any LF each CR is a line end.
    """
    if data.startswith(UTF8_MARK):
        data = data[len(UTF8_MARK) :]
    elif data.startswith(UTF16_MARKS):
        data = data.decode("utf-16", "replace").encode("utf-8", "replace")
    if b"\r" not in data:
        return data
    if b"\n" not in data:
        return data.replace(b"\r", b"\n")
    return b"\n".join([line.rstrip(b"\r") for line in data.split(b"\n")])


def without_comment(line: bytes) -> bytes:
    """``line`` up to a ``#`` after a blank or at its start, and without blanks at its end.

    In quotes and in parentheses a ``#`` is one like any other byte.
    """
    if b"#" not in line:
        return line
    quoted, depth, before = False, 0, 0x20
    for at, byte in enumerate(line):
        if before == 0x5C:
            byte = 0  # whatever it is, it stands for itself
        elif byte == 0x22 and not depth:
            quoted = not quoted
        elif byte in b"()" and not quoted:
            depth = max(0, depth + (1 if byte == 0x28 else -1))
        elif byte == 0x23 and before in b" \t" and not quoted and not depth:
            return line[:at].rstrip(b" \t")
        before = byte
    return line


def unquoted(text: bytes) -> bytes | None:
    """The content of ``text`` if all of it is one quoted string, with ``\\`` taken away; None if it is not."""
    if len(text) < 2 or not text.startswith(b'"') or not text.endswith(b'"'):
        return None
    content = bytearray()
    escaped = False
    for byte in text[1:-1]:
        if not escaped and byte == 0x5C:
            escaped = True
            continue
        if not escaped and byte == 0x22:
            return None
        content.append(byte)
        escaped = False
    return None if escaped else bytes(content)
