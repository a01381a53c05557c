"""Facts of this copy of the package. qmail-setup writes them anew into each installed copy."""

HOME = "/var/qmail"  # used when the environment has no QMAIL_HOME
BUILD_ID = "checkout"  # changes with every installed version: warm parents compare it
