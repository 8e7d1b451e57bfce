"""The command line: the only place that knows Typer. Heavy imports stand inside the commands."""
