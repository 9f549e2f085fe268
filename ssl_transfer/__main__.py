"""`python -m ssl_transfer` is the `ssl-transfer` command."""

from .cli import main

main()
