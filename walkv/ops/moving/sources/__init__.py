"""Where items come from: files of walkv, and of the stores that people had before.

base              what all of them are
sqlite, plain     SQLite files; keys and values as bytes
exported          export files of walkv
openai_agents     SQLiteSession of the OpenAI Agents SDK
google_adk        SqliteSessionService and DatabaseSessionService of Google's ADK
diskcache         caches of diskcache
table             any table of a SQLite file
opening           which of them a file is, and opening it
"""
