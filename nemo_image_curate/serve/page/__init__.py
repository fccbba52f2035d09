"""The page: a Streamlit script in a process of its own, a client of the service over HTTP."""
