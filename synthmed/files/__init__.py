"""Files and folders, on this machine or in a store: whole or not at all, claimed, locked."""
