"""Client sessions: which client a lane belongs to, what its control lane requests, and how it resumes."""
