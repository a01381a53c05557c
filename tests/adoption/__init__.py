"""Queues that change hands between this qmail and another one."""
