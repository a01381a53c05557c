"""The socket of qmail-accountsd, by which others see that it runs; nothing is said there (qmail-accountsd(8))."""

SOCKET = "/run/qmail-accountsd.sock"  # below the home
