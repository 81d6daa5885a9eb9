"""What the fast lane (`-m "not slow"`) leaves out: what starts processes, compiles, or takes about a second."""

# Beginnings of test ids, without the folder.
SLOW = (
    "fuzz/",
    "test_compile.py",
    "test_demo.py",
    "test_distribution.py",
    "test_docs.py::test_commands_of_python",
    "test_docs.py::test_programs",
    "test_engine_triton.py",
    "test_examples.py",
    "test_export.py",
    "test_gpu_script.py",
    "test_imports.py::test_a_",
    "test_kernels_",
    "test_programs.py",
)
