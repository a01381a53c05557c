"""What clients hear that are not served as they wish, each text once for all protocols (qmail-smtpd(8), RFC 3463)."""

from pyqmail.protocol.reply import Reply

NO_CONTROLS = Reply(421, b"unable to read controls (#4.3.0)")
NO_ADDRESSES = Reply(421, b"unable to figure out my IP addresses (#4.3.0)")
NO_MEMORY = Reply(421, b"out of memory (#4.3.0)")
TIMEOUT = Reply(451, b"timeout (#4.4.2)")
STRAY_LF = Reply(451, b"See https://cr.yp.to/docs/smtplf.html.")
NO_TLS = Reply(454, b"TLS not available at the moment (#4.3.0)")
TLS_FIRST = Reply(530, b"must issue STARTTLS first (#5.7.0)")
NO_CLIENT_CERTIFICATE = Reply(530, b"a client certificate is needed here (#5.7.0)")
BEFORE_TLS = Reply(501, b"nothing may follow STARTTLS in clear (#5.5.1)")
NO_QUEUE = Reply(451, b"qqt failure (#4.3.0)")
NO_ROOM = Reply(452, b"no room for this message at the moment (#4.3.1)")
HOPS = Reply(554, b"too many hops, this message is looping (#5.4.6)")
TOO_BIG = Reply(552, b"sorry, that message size exceeds my databytes limit (#5.3.4)")
NOT_ASCII = Reply(553, b"sorry, that address is not ASCII and SMTPUTF8 was not asked for (#5.6.7)")
BAD_SENDER = Reply(553, b"sorry, your envelope sender is in my badmailfrom list (#5.7.1)")
NOT_ALLOWED = Reply(553, b"sorry, that domain isn't in my list of allowed rcpthosts (#5.7.1)")
NOBODY = Reply(550, b"sorry, no mailbox here by that name (#5.1.1)")
# QMTP and QMQP have no syntax errors; these are for addresses that they can carry and nobody else can.
UNACCEPTABLE_SENDER = Reply(553, b"unacceptable sender (#5.1.7)")
UNACCEPTABLE_RECIPIENT = Reply(553, b"sorry, I can't handle that recipient (#5.1.3)")
UNACCEPTABLE_ADDRESS = Reply(553, b"sorry, I can't accept addresses like that (#5.1.3)")
