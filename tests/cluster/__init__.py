"""Three nodes behind HAProxy, and what may die meanwhile: nothing accepted is lost (`python -m tests.cluster`)."""
