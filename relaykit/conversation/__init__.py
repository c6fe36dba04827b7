"""What is said while a session is ACTIVE: frames, the journal, conversations and cursors."""
