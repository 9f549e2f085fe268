"""Read and write files that are complete or absent, each with its checksum."""
