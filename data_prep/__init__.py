"""Commands that turn annotation files into the rows that verl trains and evaluates on; see README.md."""
