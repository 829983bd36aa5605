"""What nbgrader needs to know; scripts/exercises.py and scripts/grade.py read it as well."""

c = get_config()  # noqa: F821, nbgrader defines it

c.CourseDirectory.source_directory = "solutions"
c.CourseDirectory.release_directory = "exercises"

# What an exercise shows in place of the solution.
c.ClearSolutions.code_stub = {
    "python": 'raise NotImplementedError("replace this line with your own")'
}
c.ClearSolutions.text_stub = "*Replace this line with your answer.*"

c.Execute.timeout = 60  # seconds that a cell of a submission may take

# nbgrader gives 0 points to a test that writes to stderr, but a warning is no failure: drop it.
c.IgnorePattern.enabled = True
c.IgnorePattern.pattern = r"[\s\S]"
