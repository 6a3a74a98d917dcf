"""What the page "train" says."""

from arriero.web.words import options

WORDS: dict[str, tuple[str, str]] = options.WORDS | {
    "admins_only": (
        "Training is for administrators: open the page on the machine itself, or with the administrator's key.",
        "训练仅限管理员：请在本机打开此页面，或使用管理员密钥。",
    ),
    # the list
    "no_runs": ("Nothing has been trained on this machine yet.", "本机还没有训练过。"),
    "open": ("Open", "打开"),
    "starting": ("starting", "启动中"),
    "running": ("running", "训练中"),
    "stopped": ("stopped", "已停止"),
    "failed": ("failed", "失败"),
    "finished": ("finished", "已完成"),
    "gone": ("nothing on disk", "磁盘上没有"),
    "steps_of": ("{done} of {total} steps", "第 {done} 步，共 {total} 步"),
    # a new run
    "new": ("New run", "新的训练"),
    "data": ("Data", "数据"),
    "data_placeholder": ("Choose a file, or type a path", "选择文件，或输入路径"),
    "data_help": (
        "A file (JSON, JSON Lines, CSV, Parquet), a directory of these, owner/name of a data set on Hugging Face, or "
        "modelscope:owner/name.",
        "文件（JSON、JSON Lines、CSV、Parquet）、包含这些文件的目录、Hugging Face 数据集的 owner/name，或 "
        "modelscope:owner/name。",
    ),
    "upload": ("Upload a file", "上传文件"),
    "upload_label": ("Instruction file", "指令文件"),
    "model": ("Base model", "基座模型"),
    "model_help": (
        "On this machine, or by name: what is not here yet is downloaded.",
        "本机上的模型，或输入名称：本机没有的会先下载。",
    ),
    "system": ("System prompt", "系统提示词"),
    "system_default": ("the model's own", "模型自带的"),
    "name": ("Name of the adapter", "适配器名称"),
    "name_help": ("It is served by this name, too.", "服务时也用这个名称。"),
    "bad_name": (
        "A name has 1 to 64 letters, digits or any of . _ -, and begins with a letter or digit.",
        "名称由 1 到 64 个字母、数字或 . _ - 组成，并以字母或数字开头。",
    ),
    "taken": ("There is a run called {name}; choose another name.", "已有名为 {name} 的训练，请换一个名称。"),
    "kept_in": ("Kept in {path}", "保存于 {path}"),
    "more_options": ("All other options", "其他选项"),
    "automatic": ("automatic", "自动"),
    # its plan
    "plan": ("Make a plan", "生成计划"),
    "planning": ("Reading the data and reckoning …", "正在读取数据并估算……"),
    "steps": ("Steps", "步数"),
    "time": ("Time", "时间"),
    "memory": ("Memory", "内存"),
    "tokens": ("Computed tokens", "计算的词元"),
    "plan_data": (
        "{rows} rows: {samples} to train on, {held_out} held out for evaluation, {dropped} dropped, {cut} cut. "
        "{tokens} tokens, the longest row {longest}.",
        "共 {rows} 行：训练 {samples} 行，评估 {held_out} 行，丢弃 {dropped} 行，截断 {cut} 行。"
        "共 {tokens} 个词元，最长一行 {longest} 个。",
    ),
    "speed_run": (
        "Time reckoned from the earlier run {run} of this model on this machine.",
        "时间按本机此前对该模型的训练 {run} 估算。",
    ),
    "speed_measured": (
        "Time reckoned from a short measurement of this machine, very roughly: no run of this model was finished here.",
        "时间按对本机的简短测量粗略估算：本机尚未完成过该模型的训练。",
    ),
    "system_is": ("System prompt: {system}", "系统提示词：{system}"),
    "system_none": ("the chat template's own", "对话模板自带的"),
    "start": ("Start training", "开始训练"),
    # a run
    "all": ("All runs", "全部训练"),
    "asked": ("{data} → {path}", "{data} → {path}"),
    "starting_text": ("Reading the data and the model …", "正在读取数据和模型……"),
    "left": ("{time} left", "剩余 {time}"),
    "step": ("step", "步"),
    "loss": ("Loss", "损失"),
    "loss_axis": ("nats per token", "每词元 nat"),
    "held_out": ("Held-out loss", "评估损失"),
    "tokens_per_second": ("Tokens/s", "词元/秒"),
    "stop": ("Stop", "停止"),
    "resume": ("Go on", "继续"),
    "forget": ("Take off the list", "从列表移除"),
    "forget_help": ("The adapter's directory stays as it is.", "适配器目录保持不变。"),
    "log": ("Log", "日志"),
    "failed_text": ("It ended with an error; the log says which.", "训练因错误而结束，详见日志。"),
    "exit_code": ("(exit code {code})", "（退出码 {code}）"),
    "killed": ("It was killed: often because memory ran out.", "进程被强行终止：通常是内存不足。"),
    "stopped_text": (
        "It continues from its last checkpoint and ends as if it had not been stopped.",
        "可以从最近的检查点继续，结果与未停止时相同。",
    ),
    "gone_text": (
        "Nothing of it is on disk: it was stopped before it began, or its directory was removed.",
        "磁盘上没有它的内容：在开始之前被停止，或目录已被删除。",
    ),
    # its result
    "chat": ("Chat with it", "与它对话"),
    "compare": ("Compare it", "与基座比较"),
    "download": ("Download the report", "下载报告"),
    "elsewhere": (
        "The models here are another server's; to talk to this one: arriero serve --adapter {path}",
        "此页面使用另一台服务器的模型；要与它对话：arriero serve --adapter {path}",
    ),
}
