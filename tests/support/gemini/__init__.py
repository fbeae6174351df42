"""A stand-in for the Gemini API: the wire shape of generateContent and every way it fails."""
