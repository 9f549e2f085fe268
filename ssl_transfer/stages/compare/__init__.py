"""Compare initialisations: `ssl-transfer compare`."""
