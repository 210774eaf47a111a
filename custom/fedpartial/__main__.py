"""``python -m fedpartial`` is the command ``fedpartial``."""

from fedpartial.cli.main import app

app(prog_name="fedpartial")
