#!/bin/sh
# Packs the node for machines without Rust: one archive, the same bytes each time.
set -eu

usage() {
	cat <<'END'
package.sh [--out DIR]

Makes baa-conductor-VERSION-TARGET.tar.gz in DIR (target/package) and prints its path. One folder is in it: bin/,
libexec/, scripts/, launchd/, systemd/, docs/, the pages for people, and SHA256SUMS of all that. The same source, compiler and
machine make the same bytes in any folder: names are sorted, every file has one time (SOURCE_DATE_EPOCH, else that of
the last commit), and the programs do not know where they were built. With BAA_BIN_DIR the programs in that folder are
packed, and nothing is built.

  --out DIR   where the archive goes
  --help      this text
END
}

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
# shellcheck source=scripts/lib.sh
. "$root/scripts/lib.sh"

folder=
while [ $# -gt 0 ]; do
	case $1 in
	--out)
		[ $# -gt 1 ] || { echo "package.sh: --out needs a folder" >&2 && exit 2; }
		folder=$2
		shift
		;;
	-h | --help)
		usage
		exit 0
		;;
	*)
		usage >&2
		exit 2
		;;
	esac
	shift
done

need python3 rustc
epoch=${SOURCE_DATE_EPOCH:-$(git -C "$root" log -1 --format=%ct 2>/dev/null)} ||
	die "there is no commit whose time the files could have; set SOURCE_DATE_EPOCH"
build
folder=${folder:-${CARGO_TARGET_DIR:-$root/target}/package}
mkdir -p "$folder"
version=$("$bin/codexd" version)
name=baa-conductor-${version#codexd }-$(rustc -vV | sed -n 's/^host: //p')

python3 - "$root" "$bin" "$libexec" "$folder/$name.tar.gz" "$epoch" <<'EOF_PACK'
import gzip, hashlib, io, os, sys, tarfile

root, bin, libexec, archive, epoch = sys.argv[1:]
top = os.path.basename(archive).removesuffix(".tar.gz")

# What works without the sources: no CI, no mutants.
files = {f"bin/{name}": f"{bin}/{name}" for name in ("codexd", "conductor", "status-api")}
files |= {f"libexec/{name}": f"{libexec}/{name}" for name in ("model-stub", "fake-app-server")}
pages = "README.md README.zh-CN.md CHANGELOG.md SECURITY.md ARCHITECTURE.md DEPENDENCIES.md LICENSE".split()
scripts = "scripts/lib.sh scripts/quickstart.sh scripts/install-codex.sh scripts/check-package.sh".split()
for folder in "docs", "launchd", "systemd", "scripts/runtime":
    for place, _, names in os.walk(f"{root}/{folder}"):
        pages += [os.path.relpath(f"{place}/{name}", root) for name in names if not name.endswith((".pyc", "~"))]
files |= {path: f"{root}/{path}" for path in pages + scripts if os.path.isfile(f"{root}/{path}")}

contents = {}
for path, source in files.items():
    with open(source, "rb") as file:
        contents[path] = file.read(), 0o755 if os.access(source, os.X_OK) else 0o644
sums = "".join(f"{hashlib.sha256(contents[path][0]).hexdigest()}  {path}\n" for path in sorted(contents))
contents["SHA256SUMS"] = sums.encode(), 0o644

folders = {""} | {path[:end] for path in contents for end, letter in enumerate(path) if letter == "/"}
part = f"{archive}.part"
with open(part, "wb") as file, gzip.GzipFile("", "wb", 9, file, 0) as zipped:
    with tarfile.open(fileobj=zipped, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for path in sorted(folders | set(contents)):
            entry = tarfile.TarInfo(f"{top}/{path}".rstrip("/"))
            entry.mtime = int(epoch)
            if path in folders:
                entry.type, entry.mode = tarfile.DIRTYPE, 0o755
                tar.addfile(entry)
            else:
                content, entry.mode = contents[path]
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
os.replace(part, archive)
print(archive)
EOF_PACK
