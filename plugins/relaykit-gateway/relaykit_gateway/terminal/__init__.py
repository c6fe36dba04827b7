"""What the commands of the gateway share: a terminal to write to, and to read lines from."""
