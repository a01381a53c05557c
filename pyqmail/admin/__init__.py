"""Installation and configuration."""
