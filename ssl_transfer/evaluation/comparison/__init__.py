"""Compare arms: estimates, significance, label efficiency, verdict, result tables."""
