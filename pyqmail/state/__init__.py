"""What is known for a while: counters with windows, and who comes for the first time (qmail-stated(8))."""
