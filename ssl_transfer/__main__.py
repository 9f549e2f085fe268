"""`python -m ssl_transfer` is the `ssl-transfer` command."""

from ssl_transfer.cli.main import main

main()
