"""Everything together: a relay that runs sessions."""
