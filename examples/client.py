"""The tutorial's HTTP call, with the standard library only.

python examples/client.py "Who are you?" http://127.0.0.1:6006
"""

import json
import sys
import urllib.request

question, address = sys.argv[1:]
request = urllib.request.Request(
    address, data=json.dumps({"prompt": question}).encode(), headers={"Content-Type": "application/json"}
)
with urllib.request.urlopen(request) as response:
    print(json.dumps(json.load(response), ensure_ascii=False))
