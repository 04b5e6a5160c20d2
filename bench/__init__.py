"""What is measured, against whom. Never part of the tests: a figure depends on the machine, so each names its own."""
