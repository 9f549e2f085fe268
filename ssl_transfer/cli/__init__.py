"""Parse the command line: commands, help, completion, doctor."""
