"""Certificates for tests, made with the openssl command."""

import subprocess

KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


def run(*arguments):
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


class Authority:
    """A certificate authority in `directory`/NAME.crt."""

    def __init__(self, directory, name):
        self.directory = directory
        self.certificate, self.key = directory / f"{name}.crt", directory / f"{name}.key"
        run("req", "-x509", *KEY, "-days", 30, "-subj", f"/CN={name}", "-keyout", self.key, "-out", self.certificate)

    def issue(self, name, days=30):
        """(certificate, key), signed, for localhost."""
        certificate, key, request, extensions = (self.directory / f"{name}.{ending}" for ending in ("crt", "key", "csr", "ext"))
        extensions.write_text(f"subjectAltName=DNS:{name},DNS:localhost,IP:127.0.0.1\n")
        run("req", *KEY, "-subj", f"/CN={name}", "-keyout", key, "-out", request)
        run("x509", "-req", "-in", request, "-CA", self.certificate, "-CAkey", self.key, "-CAcreateserial", "-days", days,
            "-extfile", extensions, "-out", certificate)
        return certificate, key
