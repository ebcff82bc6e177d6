"""Random faults in a mesh of real processes, visitors that check every byte, and a consistency check at the end."""
