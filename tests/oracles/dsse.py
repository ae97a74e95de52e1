"""Signs and verifies DSSE envelopes with securesystemslib.

Reads one JSON request from standard input and prints one JSON answer:

  {"do": "pae", "type": ..., "payload": <base64>}                      -> {"pae": <base64>}
  {"do": "verify", "envelope": ..., "keys": {<id>: <hex>}, "threshold": n}
                                                   -> {"signers": [<id>, ...]} or {"refused": <why>}
  {"do": "sign", "type": ..., "payload": <base64>, "signers": n}       -> {"envelope": ..., "keys": {<id>: <hex>}}
"""

import base64
import json
import sys

from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import CryptoSigner, SSlibKey


def answer(request):
    if request["do"] == "verify":
        envelope = Envelope.from_dict(request["envelope"])
        keys = [
            SSlibKey(identifier, "ed25519", "ed25519", {"public": public})
            for identifier, public in request["keys"].items()
        ]
        try:
            return {"signers": sorted(envelope.verify(keys, request["threshold"]))}
        except VerificationError as error:
            return {"refused": str(error)}
    envelope = Envelope(base64.b64decode(request["payload"]), request["type"], {})
    if request["do"] == "pae":
        return {"pae": base64.b64encode(envelope.pae()).decode()}
    signers = [CryptoSigner.generate_ed25519() for _ in range(request["signers"])]
    for signer in signers:
        envelope.sign(signer)
    keys = {signer.public_key.keyid: signer.public_key.keyval["public"] for signer in signers}
    return {"envelope": envelope.to_dict(), "keys": keys}


print(json.dumps(answer(json.load(sys.stdin))))
