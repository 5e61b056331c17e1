"""Builds the one extension module. Metadata is in pyproject.toml, command options in setup.cfg.

Variables, each 0 when unset:
DROPCORE_DEBUG=1      no optimisation, assertions, debug information
DROPCORE_SYMBOLS=1    debug information beside full optimisation, for profilers
DROPCORE_SANITIZE=1   AddressSanitizer and UndefinedBehaviorSanitizer; `thread`: ThreadSanitizer
DROPCORE_COVERAGE=1   gcov counters
DROPCORE_WERROR=1     warnings are errors
DROPCORE_NO_OPENMP=1  single-threaded even where OpenMP is there

SOURCE_DATE_EPOCH, in seconds since 1970, gives equal sources an equal source distribution, byte by
byte, as it does for wheels.
"""

import gzip
import os
import shutil
import sys
import sysconfig
import tarfile
from glob import glob

from Cython.Build import cythonize
from extension_helpers import add_openmp_flags_if_available
from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist


def chosen(name):
    return os.environ.get(f"DROPCORE_{name}", "0") not in ("", "0")


FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
ABI3 = not FREE_THREADED

# No fast-math and no contraction: every instruction set must give the same bits. Nobody looks at
# floating-point exceptions, and GCC vectorises selections only where it may raise them at will.
GNU_FLAGS = [
    "-std=gnu99",
    "-O3",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fvisibility=hidden",
    "-Wall",
    "-Wextra",
]
MSVC_FLAGS = ["/O2", "/fp:precise", "/std:c11"]

SANITIZERS = {
    "1": ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"],
    "thread": ["-fsanitize=thread"],
}

NO_COMPILER = """\
dropcore: no C compiler found (looked for {command!r}).
  Debian, Ubuntu:  apt-get install build-essential python3-dev
  Fedora:          dnf install gcc python3-devel
  macOS:           xcode-select --install
Or set the variable CC to your compiler."""

NO_OPENMP = (
    "dropcore: OpenMP is not available with this compiler: building single-threaded. "
    "(clang on Debian: libomp-dev; macOS: brew install llvm, CC=$(brew --prefix llvm)/bin/clang)"
)


class BuildExt(build_ext):
    """Adds what depends on the compiler once it is known."""

    def build_extensions(self):
        (extension,) = self.extensions
        if self.compiler.compiler_type == "msvc":
            extension.extra_compile_args += MSVC_FLAGS + ["/WX"] * chosen("WERROR")
        else:
            command = self.compiler.compiler[0]
            if shutil.which(command) is None:
                sys.exit(NO_COMPILER.format(command=command))
            extension.extra_compile_args += GNU_FLAGS + ["-Werror"] * chosen("WERROR")
            # Python's own flags contain -g, which makes the wheel three times as large. Names of
            # functions stay either way.
            inspected = any(map(chosen, ("DEBUG", "SANITIZE", "SYMBOLS")))
            extension.extra_compile_args += ["-g" if inspected else "-g0"]
            if chosen("DEBUG"):
                extension.extra_compile_args += ["-O0", "-UNDEBUG"]
            if chosen("SANITIZE"):
                flags = SANITIZERS[os.environ["DROPCORE_SANITIZE"]]
                extension.extra_compile_args += [*flags, "-O1", "-fno-omit-frame-pointer"]
                extension.extra_link_args += flags
            if chosen("COVERAGE"):
                extension.extra_compile_args += ["--coverage", "-O0"]
                extension.extra_link_args += ["--coverage"]
        if chosen("NO_OPENMP") or not add_openmp_flags_if_available(extension):
            print(NO_OPENMP, file=sys.stderr)
        super().build_extensions()


class BuildPy(build_py):
    """Installs the scripts of examples/papers with the package, for `dropcore reproduce`."""

    def run(self):
        super().run()
        if not self.editable_mode:
            for script in sorted(glob("examples/papers/*.py")):
                target = (
                    f"{self.build_lib}/dropcore/reproduction/scripts/{os.path.basename(script)}"
                )
                self.mkpath(os.path.dirname(target))
                self.copy_file(script, target)


class BdistWheel(bdist_wheel):
    """Ignores the stable ABI of setup.cfg on free-threaded Python, which has none."""

    def finalize_options(self):
        if FREE_THREADED:
            self.py_limited_api = False
        super().finalize_options()


class Sdist(sdist):
    """Writes an archive of equal bytes where SOURCE_DATE_EPOCH is set."""

    def make_archive(self, base_name, format, root_dir=None, base_dir=None, owner=None, group=None):
        epoch = os.environ.get("SOURCE_DATE_EPOCH")
        if epoch is None or format != "gztar":
            return super().make_archive(base_name, format, root_dir, base_dir, owner, group)

        def plain(entry):
            executable = entry.isdir() or entry.mode & 0o100
            entry.mtime, entry.mode = int(epoch), 0o755 if executable else 0o644
            entry.uid = entry.gid = 0
            entry.uname = entry.gname = ""
            return entry

        path = f"{base_name}.tar.gz"
        with (
            open(path, "wb") as file,
            gzip.GzipFile("", "wb", 9, file, mtime=int(epoch)) as compressed,
            tarfile.open(mode="w", fileobj=compressed, format=tarfile.PAX_FORMAT) as archive,
        ):
            # Folders are added in the order of their names.
            archive.add(os.path.join(root_dir or "", base_dir), base_dir, filter=plain)
        return path


core = Extension(
    "dropcore._core",
    sources=[
        "src/cdrop/_core.pyx",
        "src/cdrop/runtime.c",
        "src/cdrop/permutation.c",
        "src/cdrop/serial.c",
        "src/cdrop/attention.c",
        "src/cdrop/capi.c",
        # Each file is empty on the processors that it is not for.
        *(f"src/cdrop/isa/{isa}.c" for isa in ("scalar", "avx2", "avx512", "neon")),
    ],
    depends=[
        path
        for pattern in ("src/cdrop/**/*.h", "src/cdrop/*.p[xy][dix]", "python/dropcore/**/*.h")
        for path in sorted(glob(pattern, recursive=True))
    ],
    include_dirs=["src/cdrop", "python/dropcore/include"],
    define_macros=[("Py_LIMITED_API", "0x030B0000")] if ABI3 else [],
    py_limited_api=ABI3,
)

setup(
    ext_modules=cythonize(
        [core],
        include_path=["src/cdrop"],
        compiler_directives={"language_level": 3},
    ),
    cmdclass={
        "build_py": BuildPy,
        "build_ext": BuildExt,
        "bdist_wheel": BdistWheel,
        "sdist": Sdist,
    },
)
