"""What several pages say."""

WORDS = {
    "page_chat": ("Chat", "对话"),
    "page_compare": ("Compare", "比较"),
    "page_data": ("Data", "数据"),
    "page_train": ("Train", "训练"),
    "page_models": ("Models", "模型"),
    "admins_only": ("This page is for administrators.", "此页面仅限管理员。"),
    "try": ("Try: {hint}", "可以试试：{hint}"),
    "language": ("Language", "语言"),
}
