"""What scripts/chaos is made of: the plan, the stage that it is played on, the visitors, the check at the end."""
