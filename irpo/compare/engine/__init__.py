"""Running cells: processes of their own here or on Slurm, locks, what is left of them, and how far a suite is."""
