"""What Portway's tests start, visit and fake."""
