"""What is wrong with a chain, what is doubtful, and what a change of it means. Open `checks` first."""
