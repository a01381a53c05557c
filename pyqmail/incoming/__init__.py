"""Mail from other hosts: one way in for SMTP, QMTP and QMQP, and the checks that stand in it."""
